// Puts the video of an MPEG-TS file through a daemon, with code made by protoc-gen-go.
//
//	TVARR_AUTH_TOKEN=... ./client HOST:PORT IN.ts OUT.h264 [copy|h264|hevc]
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	pb "example.org/tvarr/gen"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const batchBytes = 256 << 10 // samples travel in batches of about this size; the limit of a message is 16 MiB

// feed sends what the daemon gets: the job, its samples, the end.
func feed(stream pb.Ffmpegd_TranscodeClient, path, codec string) error {
	start := &pb.TranscodeStart{
		ProtocolVersion: 1,
		Tracks:          []*pb.Track{{Id: 1, Codec: "h264"}},
		Targets:         []*pb.Target{{TrackId: 1, Codec: codec, Preset: "veryfast"}},
		FullSpeed:       true, // as fast as the daemon takes it; without, FFmpeg is tuned for a live source
	}
	if err := stream.Send(&pb.JobInput{Kind: &pb.JobInput_Start{Start: start}}); err != nil {
		return err
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	batch, size, sequence := &pb.SampleBatch{}, 0, uint64(0)
	err = pictures(file, func(p picture) error {
		batch.Samples = append(batch.Samples, &pb.Sample{
			Track: 1, Pts: p.pts, DtsDelta: uint32(p.pts - p.dts), Data: p.data, Keyframe: p.keyframe, Sequence: sequence,
		})
		size, sequence = size+len(p.data), sequence+1
		if size < batchBytes {
			return nil
		}
		full := batch
		batch, size = &pb.SampleBatch{}, 0
		return stream.Send(&pb.JobInput{Kind: &pb.JobInput_Batch{Batch: full}})
	})
	if err != nil {
		return err
	}
	end := &pb.JobInput_Complete{Complete: &pb.InputComplete{}}
	for _, input := range []*pb.JobInput{{Kind: &pb.JobInput_Batch{Batch: batch}}, {Kind: end}} {
		if err := stream.Send(input); err != nil {
			return err
		}
	}
	return stream.CloseSend()
}

func run(target, source, destination, codec string) error {
	limit := grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16 << 20))
	connection, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()), limit)
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+os.Getenv("TVARR_AUTH_TOKEN"))

	daemon := pb.NewFfmpegdClient(connection)
	hello, err := daemon.Register(ctx, &pb.RegisterRequest{ProtocolVersion: 1, ClientName: "go"})
	if err != nil {
		return err
	}
	var names []string
	for _, encoder := range hello.Capabilities.Encoders {
		if encoder.Usable {
			names = append(names, encoder.Name)
		}
	}
	fmt.Printf("%s: %s\n", hello.Name, strings.Join(names, ", "))

	out, err := os.Create(destination)
	if err != nil {
		return err
	}
	defer out.Close()
	began := time.Now()
	stream, err := daemon.Transcode(ctx)
	if err != nil {
		return err
	}
	failed := make(chan error, 1) // of the input, which ends the job too
	go func() {
		if err := feed(stream, source, codec); err != nil && !errors.Is(err, io.EOF) { // EOF: the daemon has the word
			failed <- err
			cancel()
		}
	}()
	count, first, last := 0, int64(0), int64(0)
	for {
		output, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			select {
			case err = <-failed:
			default:
			}
			return err
		}
		switch kind := output.Kind.(type) {
		case *pb.JobOutput_Ack:
			fmt.Println("encoded by", cmp.Or(kind.Ack.Encoder, "nobody"))
		case *pb.JobOutput_Error:
			return fmt.Errorf("%s: %s", kind.Error.Code, kind.Error.Message)
		case *pb.JobOutput_Batch:
			for _, sample := range kind.Batch.Samples {
				if count == 0 {
					first, last = sample.Pts, sample.Pts
				}
				count, first, last = count+1, min(first, sample.Pts), max(last, sample.Pts)
				if _, err := out.Write(sample.Data); err != nil {
					return err
				}
			}
		}
	}
	speed := float64(last-first) / ticks / time.Since(began).Seconds()
	fmt.Printf("%d pictures at %.1f times real time\n", count, speed)
	return nil
}

func main() {
	arguments := append(os.Args[1:], "copy")
	if len(arguments) < 4 || os.Getenv("TVARR_AUTH_TOKEN") == "" {
		fmt.Println("TVARR_AUTH_TOKEN=... ./client HOST:PORT IN.ts OUT.h264 [copy|h264|hevc]")
		os.Exit(1)
	}
	if err := run(arguments[0], arguments[1], arguments[2], arguments[3]); err != nil {
		if said, ok := status.FromError(err); ok {
			err = fmt.Errorf("%s: %s", said.Code(), said.Message())
		}
		fmt.Println(err)
		os.Exit(1)
	}
}
