"""What came out: rows in, tables and pages out. Never opens a checkpoint, never needs torch or ray."""
