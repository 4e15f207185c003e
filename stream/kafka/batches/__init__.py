"""What a fetched batch holds, decompressed and cut so that no batch costs more memory than a piece of it."""
