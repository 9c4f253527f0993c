"""Files and folders: paths and object stores, run folders, locks, files that ship with cid_ray."""
