"""Data: from image files to batches of numpy arrays. pyarrow, numpy and Pillow; never torch.

The way of an image, each file knows only those before it:

    table, table_writer  one folder with encoded images, masks and an index
    importers, ingest    files on disk -> an audited table;  synthetic: the generated demo set
    sources              opens the table that `data.table` names
    label_draw, split_files, splits   which rows are labeled, pool, val and test
    cache                decoded images that all processes of a node share
    sampling             which image comes at which step
    loader, ray_data     batches, by the process's own threads or by Ray Data
"""
