"""What every stage needs: study file, paths, files, tables, receipts, randomness, errors, progress."""
