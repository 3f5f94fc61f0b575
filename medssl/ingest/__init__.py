"""ingest: which images do we really have? Files go in; faithful volumes and a ledger of every file come out."""
