"""HLS as a source (RFC 8216bis)."""
