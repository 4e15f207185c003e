"""One owned partition's life: ingest, commit, encode, publish."""
