package main

import (
	"bufio"
	"io"
)

const (
	packetBytes = 188
	ticks       = 90_000 // a second
	wrap        = int64(1) << 33
)

// A picture: an access unit in Annex B, its times in ticks of 90 kHz that don't wrap.
type picture struct {
	pts, dts int64
	data     []byte
	keyframe bool
}

// pictures calls yield for each of the first video track of an MPEG-TS file (ISO/IEC 13818-1), as plain as it goes.
// Each PES packet has to hold one picture, as encoders write it.
func pictures(file io.Reader, yield func(picture) error) error {
	reader := bufio.NewReaderSize(file, 1<<20)
	packet := make([]byte, packetBytes)
	var pes []byte
	var dts int64
	video, keyframe := -1, false
	end := func() error {
		if len(pes) == 0 {
			return nil
		}
		made := toPicture(pes, keyframe, dts)
		dts, pes = made.dts, nil
		return yield(made)
	}
	for {
		if _, err := io.ReadFull(reader, packet); err != nil {
			return end() // a part of a packet at the end says nothing
		}
		pid, payload, randomAccess := int(packet[1]&0x1f)<<8|int(packet[2]), 4, false
		if packet[3]&0x20 != 0 { // an adaptation field
			payload += 1 + int(packet[4])
			randomAccess = packet[4] > 0 && packet[5]&0x40 != 0
		}
		if packet[1]&0x40 != 0 && payload+4 <= packetBytes && string(packet[payload:payload+3]) == "\x00\x00\x01" &&
			packet[payload+3]&0xf0 == 0xe0 {
			if video < 0 {
				video = pid
			}
			if pid == video {
				if err := end(); err != nil {
					return err
				}
				keyframe = randomAccess
			}
		}
		if pid == video && packet[3]&0x10 != 0 {
			pes = append(pes, packet[payload:]...)
		}
	}
}

// toPicture takes the header off (2.4.3.6), and puts the 33-bit time stamps where they are nearest to the one before.
func toPicture(pes []byte, keyframe bool, previousDts int64) picture {
	pts := time33(pes[9:])
	dts := pts
	if pes[7]&0x40 != 0 {
		dts = time33(pes[14:])
	}
	reorder := (pts - dts + wrap) % wrap
	if previousDts != 0 {
		dts = previousDts + ((dts-previousDts)%wrap+wrap+wrap/2)%wrap - wrap/2
	}
	return picture{dts + reorder, dts, pes[9+int(pes[8]):], keyframe}
}

func time33(b []byte) int64 {
	return int64(b[0]>>1&7)<<30 | int64(b[1])<<22 | int64(b[2]>>1)<<15 | int64(b[3])<<7 | int64(b[4])>>1
}
