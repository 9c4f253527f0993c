"""The bytes: tables, importers, audits, label draws, batches. pyarrow, numpy and pillow; Ray only inside functions."""
