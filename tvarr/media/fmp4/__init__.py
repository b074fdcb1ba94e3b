"""ISO base media files, fragmented and progressive (ISO/IEC 14496-12; CMAF: 23000-19): reading and writing."""
