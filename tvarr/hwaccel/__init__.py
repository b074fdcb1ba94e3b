"""What a host's hardware can really encode: devices, limits, trial encodes."""
