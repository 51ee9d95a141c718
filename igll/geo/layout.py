"""How a raster lies in its file, as GDAL's creation options for a copy that lies alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from igll.geo.metadata import has_documents
from igll.geo.missing_values import alpha_bands
from igll.geo.raster import open_quietly

# Codecs that give back every bit of every number; LERC, WEBP and JPEG XL can lose NaN payloads or colours.
_LOSSLESS = ("LZW", "DEFLATE", "PACKBITS", "ZSTD", "LZMA", "CCITTRLE", "CCITTFAX3", "CCITTFAX4")
_COG_CODECS = ("LZW", "DEFLATE", "ZSTD", "LZMA")
_PREDICTING = ("LZW", "DEFLATE", "ZSTD")
_COG_PREDICTORS = {"1": "NO", "2": "STANDARD", "3": "FLOATING_POINT"}
_OTHER_DRIVERS_TILE = 256
_COG_TILE = 512
# Blocks that change are written anew, behind the old ones if they grow: a file can become twice its size.
_CLASSIC_LIMIT = 2**30
_BIGTIFF = (b"II+\0", b"MM\0+")  # how files begin that can grow beyond 4 GiB


def nbits(dataset: Any, band: int = 1) -> int | None:
    """Bits that the file keeps of each pixel of a band, where that is less than its type has."""
    stated = dataset.tags(band, ns="IMAGE_STRUCTURE").get("NBITS")
    return int(stated) if stated else None


def is_cog(dataset: Any) -> bool:
    """Whether the file is laid out as a cloud-optimized GeoTIFF."""
    return bool(dataset.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == "COG")


def is_kept_as_it_is(dataset: Any) -> bool:
    """Whether a copy can be made byte by byte: GeoTIFF in a single file, ready to be changed.

    Compression has to lose nothing, colours have to be the file's own and not what GDAL makes of CMYK or Lab,
    and the file must be able to grow beyond 4 GiB, if it is large. Overviews
    and a COG's order would leave holes in the file when they are made anew. A high image in a single strip
    is one that GDAL presents row by row and does not write to.
    """
    if dataset.driver != "GTiff" or is_cog(dataset) or dataset.overviews(1) or len(dataset.files) != 1:
        return False
    structure = dataset.tags(ns="IMAGE_STRUCTURE")
    if structure.get("COMPRESSION") not in (None, *_LOSSLESS) or "SOURCE_COLOR_SPACE" in structure:
        return False
    last_row = dataset.get_tag_item(f"BLOCK_OFFSET_0_{dataset.height - 1}", "TIFF", bidx=1)
    if dataset.block_shapes[0] == (1, dataset.width) and last_row is None:
        return False
    with Path(dataset.files[0]).open("rb") as file:
        version = file.read(4)
    return version in _BIGTIFF or _bigtiff(dataset) != "YES"


def geotiff_options(dataset: Any) -> dict[str, str]:
    """Options of GDAL's GTiff driver for a copy laid out as the source.

    Compression that loses something becomes DEFLATE. Of other formats than GeoTIFF: DEFLATE, tiles of 256.
    """
    structure = dataset.tags(ns="IMAGE_STRUCTURE")
    options = {"BIGTIFF": _bigtiff(dataset)}
    options |= _bits(dataset) | _codec(dataset) | _colour(dataset)
    if dataset.driver != "GTiff":
        tile = str(_OTHER_DRIVERS_TILE)
        return options | {"TILED": "YES", "BLOCKXSIZE": tile, "BLOCKYSIZE": tile}
    block_height, block_width = dataset.block_shapes[0]
    options["BLOCKYSIZE"] = str(block_height)
    if block_width != dataset.width:
        options |= {"TILED": "YES", "BLOCKXSIZE": str(block_width)}
    if structure.get("INTERLEAVE") in ("PIXEL", "BAND"):
        options["INTERLEAVE"] = structure["INTERLEAVE"]
    if has_documents(dataset):  # which only GDAL can copy; metadata.copy_domains mends what that leaves out
        options["COPY_SRC_MDD"] = "YES"
    return options


def cog_options(filled: Any, dataset: Any, resampling: str) -> dict[str, str]:
    """Options of GDAL's COG driver for a copy laid out as near to the source as that format allows.

    Args:
        filled: What is to be laid out, open.
        dataset: The source, open.
        resampling: Name of how overviews are made where the source has none.
    """
    codec = _codec(dataset)
    options = {"BIGTIFF": _bigtiff(dataset)} | _bits(dataset)
    # All domains of tags are copied on request, but then those of bands without a domain are not.
    options["COPY_SRC_MDD"] = "AUTO" if any(map(filled.tags, filled.indexes)) else "YES"
    name = codec.get("COMPRESS", "NONE")
    options["COMPRESS"] = name if name in (*_COG_CODECS, "NONE") else "DEFLATE"
    if options["COMPRESS"] in _PREDICTING:
        options["PREDICTOR"] = _COG_PREDICTORS[codec.get("PREDICTOR", "1")]
    block_height, block_width = dataset.block_shapes[0]
    tiled = dataset.driver == "GTiff" and block_width == block_height and block_width % 128 == 0
    options["BLOCKSIZE"] = str(block_width if tiled else _COG_TILE)
    options["OVERVIEWS"] = "NONE" if is_cog(dataset) and not dataset.overviews(1) else "AUTO"
    options["OVERVIEW_RESAMPLING"] = resampling.upper()
    return options


def overview_resampling(dataset: Any) -> str:
    """How overviews are to be made: as the source's say that they were, else by averaging.

    Averages of a palette's indices or of single bits mean nothing; there the nearest pixel is taken.

    Returns:
        A name of ``rasterio.enums.Resampling``.
    """
    from rasterio.enums import ColorInterp, OverviewResampling

    if dataset.overviews(1):
        with open_quietly(dataset.name, overview_level=0) as overview:
            stated = overview.tags(1).get("RESAMPLING", "")
        stated = dataset.tags(ns="IMAGE_STRUCTURE").get("OVR_RESAMPLING", stated).lower()
        if stated in OverviewResampling.__members__:
            return str(stated)
    indexed = ColorInterp.palette in dataset.colorinterp or nbits(dataset) == 1
    return "nearest" if indexed else "average"


def _bits(dataset: Any) -> dict[str, str]:
    bits = nbits(dataset)
    # Floats of 24 bits are read as whole ones; a file of whole ones holds them without rounding any more.
    if bits is None or (np.dtype(dataset.dtypes[0]).kind == "f" and bits != 16):
        return {}
    return {"NBITS": str(bits)}


def _codec(dataset: Any) -> dict[str, str]:
    structure = dataset.tags(ns="IMAGE_STRUCTURE")
    stated = structure.get("COMPRESSION")
    if dataset.driver == "GTiff" and stated in (None, *_LOSSLESS):
        options = {"COMPRESS": stated} if stated else {}
        return options | ({"PREDICTOR": structure["PREDICTOR"]} if "PREDICTOR" in structure else {})
    dtype = np.dtype(dataset.dtypes[0])
    predictor = "1" if _bits(dataset) else "3" if dtype.kind == "f" else "2"
    return {"COMPRESS": "DEFLATE", "PREDICTOR": predictor}


def _colour(dataset: Any) -> dict[str, str]:
    from rasterio.enums import ColorInterp

    options = {}
    if dataset.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES":
        options["PHOTOMETRIC"] = "MINISWHITE"
    elif dataset.colorinterp[:3] == (ColorInterp.red, ColorInterp.green, ColorInterp.blue):
        options["PHOTOMETRIC"] = "RGB"
    else:
        options["PHOTOMETRIC"] = "MINISBLACK"  # else GDAL takes any three bands of bytes for RGB
    for band in alpha_bands(dataset):
        if dataset.tags(band, ns="IMAGE_STRUCTURE").get("ALPHA") == "PREMULTIPLIED":
            options["ALPHA"] = "PREMULTIPLIED"
    # GDAL itself copies a colour profile; as an option, whose capitals rasterio changes, it would break.
    return options


def _bigtiff(dataset: Any) -> str:
    pixel_bytes = sum(np.dtype(dtype).itemsize for dtype in dataset.dtypes)
    return "YES" if dataset.width * dataset.height * pixel_bytes > _CLASSIC_LIMIT else "IF_SAFER"
