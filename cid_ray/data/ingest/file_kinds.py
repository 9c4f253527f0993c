"""What a file or folder is by its name: an image that can be read, or why it is left out."""

from __future__ import annotations

from pathlib import PurePath

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
LOSSY_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")
# Each reason is a plural noun phrase, which follows a count, and holds the remedy.
CONVERT = "pictures in formats that are not read (convert them to PNG)"
VIDEO = "videos (extract their frames as PNG)"
ARRAY = "arrays (save them as PNG or TIFF)"
ARCHIVE = "archives (extract them)"
NO_PICTURE = "files that are no pictures"
OTHER_SUFFIXES = {
    CONVERT: "heic heif avif dcm dicom gif svg jp2 j2k jpx jxl psd xcf ico tga exr hdr pfm eps "
    "raw dng cr2 cr3 nef arw orf rw2 raf pef srw nrrd nii mha mhd svs ndpi mrxs czi lif vsi ecw "
    "img emf wmf pcx",
    VIDEO: "mp4 avi mov mkv webm m4v mpg mpeg wmv flv mts m2ts 3gp",
    ARRAY: "npy npz mat h5 hdf5 pt pth pkl",
    ARCHIVE: "zip tar gz tgz bz2 xz 7z rar zst",
}
REASON_OF_SUFFIX = {
    f".{suffix}": reason for reason, text in OTHER_SUFFIXES.items() for suffix in text.split()
}
SYSTEM_FILES = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")
SYSTEM_FOLDERS = (
    *("@eadir", "__macosx", "#recycle", "#snapshot", "$recycle.bin"),
    *("system volume information", "lost+found"),
)


def is_image_name(name: str) -> bool:
    """Whether a file of this name is read as an image. Capitals do not matter.

    Example:
        >>> is_image_name("A.JPG"), is_image_name("._a.jpg"), is_image_name("a.heic")
        (True, False, False)
    """
    return why_left_out(name) is None


def is_listed(path: PurePath, folder: PurePath) -> bool:
    """Whether a file below a folder is read as an image: by its name and its folders' names."""
    *folders, name = path.relative_to(folder).parts
    return is_image_name(name) and not any(map(why_folder_left_out, folders))


def why_left_out(name: str) -> str | None:
    """Why a file is no image, as a plural noun phrase; None for an image."""
    if name.startswith("._"):
        return "macOS resource files"
    if name.startswith("."):
        return "hidden files"
    if name.lower() in SYSTEM_FILES:
        return "files of the operating system"
    suffix = PurePath(name).suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return None
    return REASON_OF_SUFFIX.get(suffix, NO_PICTURE)


def why_folder_left_out(name: str) -> str | None:
    """Why a folder is not entered, as a plural noun phrase; None for a usual folder."""
    if name.lower() in SYSTEM_FOLDERS:
        return "folders of the operating system"
    return "hidden folders" if name.startswith(".") else None
