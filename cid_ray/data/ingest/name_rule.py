"""Which files of a folder are images and which masks, by the options on their names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.names import image_name, is_changed, one_spelling


@dataclass(frozen=True)
class NameRule:
    """How the names of images and masks differ. An image and its mask share the rest of the name.

    Attributes:
        image_suffix: end of an image's name before the dot: "_leftImg8bit" (`--image-suffix`).
        mask_suffix: end of a mask's name before the dot: "_mask" (`--mask-suffix`).
        image_glob: pattern of image files: "*.jpg", or "rgb/*" for a path (`--image-glob`).
        mask_glob: pattern of mask files (`--mask-glob`).

    Example:
        >>> rule = NameRule(mask_suffix="_mask")
        >>> rule.is_mask(Path("set/a_mask.png"), Path("set"))
        True
        >>> rule.mask_key("a_mask")
        'a'
    """

    image_suffix: str = ""
    mask_suffix: str = ""
    image_glob: str | None = None
    mask_glob: str | None = None

    def __bool__(self) -> bool:
        """Whether the rule distinguishes anything."""
        return bool(self._tells_images or self._tells_masks)

    @property
    def _tells_images(self) -> bool:
        return bool(self.image_suffix or self.image_glob)

    @property
    def _tells_masks(self) -> bool:
        return bool(self.mask_suffix or self.mask_glob)

    def is_image(self, path: Path, folder: Path) -> bool:
        """Whether a file of a folder of images is one."""
        return _fits(path, folder, self.image_suffix, self.image_glob)

    def is_mask(self, path: Path, folder: Path) -> bool:
        """Whether a file of a folder of masks is one."""
        return _fits(path, folder, self.mask_suffix, self.mask_glob)

    def split_folder(self, files: Iterable[Path], folder: Path) -> tuple[list[Path], list[Path]]:
        """The images and the masks of a folder that holds both.

        With one option given, all other files are of the other kind. A file that fits both is a
        mask.
        """
        images, masks = [], []
        for path in files:
            is_image = self.is_image(path, folder)
            is_mask = self.is_mask(path, folder) if self._tells_masks else not is_image
            if is_mask:
                masks.append(path)
            elif is_image:
                images.append(path)
        return images, masks

    def image_key(self, name: str) -> str:
        """What an image's name shares with its mask's."""
        return name.removesuffix(one_spelling(self.image_suffix))

    def mask_key(self, name: str) -> str:
        """What a mask's name shares with its image's."""
        return name.removesuffix(one_spelling(self.mask_suffix))


def names_in(files: Iterable[Path], folder: Path, findings: Findings) -> dict[Path, str]:
    """The name of each file of a folder, in the order of the files."""
    names = {}
    for path in files:
        names[path] = image_name(path, folder)
        if is_changed(path.relative_to(folder).as_posix()):
            reason = "names that are not UTF-8 or hold control characters (written with \\x..)"
            findings.add("changed", reason, path)
    return names


def _fits(path: Path, folder: Path, suffix: str, glob: str | None) -> bool:
    name = image_name(path, folder)
    if not name.rpartition("/")[2].endswith(one_spelling(suffix)):
        return False
    if glob is None:
        return True
    # Capitals do not matter, as for suffixes: `*.jpg` means `A.JPG` too.
    text = path.relative_to(folder).as_posix() if "/" in glob else path.name
    return fnmatchcase(one_spelling(text).casefold(), one_spelling(glob).casefold())
