"""What is said of a raster beside its pixels: whether a copy says the same, and what a change makes stale."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

_STATISTICS = "STATISTICS_"
# Domains that GDAL derives from the file, or copies by itself.
_NOT_COPIED = ("IMAGE_STRUCTURE", "DERIVED_SUBDATASETS", "SUBDATASETS", "COLOR_PROFILE", "RPC")
_NOT_TEXT = ("xml:", "json:")


def differing_metadata(source: Any, copy: Any) -> list[str]:
    """Names of what a copy of a raster says otherwise than its source.

    Compared: size, number and types of bands, CRS, transform, ground control points, rational polynomial
    coefficients, no-data values, scales, offsets, units, descriptions, colour interpretation, colour tables
    and colour profile.

    Args:
        source: An open rasterio dataset.
        copy: Another.
    """
    ours, theirs = _described(source), _described(copy)
    return [name for name in ours if ours[name] != theirs[name]]


def has_documents(dataset: Any) -> bool:
    """Whether a raster or a band has XML or JSON among its domains of tags."""
    return any(
        domain.startswith(_NOT_TEXT)
        for band in (0, *dataset.indexes)
        for domain in dataset.tag_namespaces(band)
    )


def copy_domains(target: Any, source: Any) -> None:
    """Copy the tags of all domains, of the raster and of its bands, that GDAL does not copy by itself.

    Args:
        target: The copy, open for writing.
        source: The raster that it was copied from.
    """
    for band in (0, *source.indexes):
        for domain, tags in _lost_domains(source, target, band).items():
            target.update_tags(band, ns=domain, **tags)
        if band and source.tags(band) != target.tags(band):  # lost where GDAL was asked for all domains
            target.update_tags(band, **source.tags(band))


def write_lost_domains(path: Path, copy: Any, source: Any) -> None:
    """Write the domains of tags that a closed form of file lacks into GDAL's side file.

    Args:
        path: The side file, ``.aux.xml``; added to if it is there.
        copy: The raster that lacks some, open.
        source: The raster that it was copied from.
    """
    root = ElementTree.parse(path).getroot() if path.exists() else ElementTree.Element("PAMDataset")  # noqa: S314
    for band in (0, *source.indexes):
        for domain, tags in _lost_domains(source, copy, band).items():
            parent = root
            if band:
                parent = next((b for b in root if b.get("band") == str(band)), root)
                if parent is root:
                    parent = ElementTree.SubElement(root, "PAMRasterBand", band=str(band))
            element = ElementTree.SubElement(parent, "Metadata", domain=domain)
            for key, text in tags.items():
                ElementTree.SubElement(element, "MDI", key=key).text = text
    if len(root):
        path.write_bytes(ElementTree.tostring(root, encoding="utf-8"))


def drop_statistics(target: Any, source: Any, filled: list[int]) -> None:
    """Remove the statistics of bands whose pixels changed.

    Args:
        target: The copy, open for writing.
        source: The raster that it was copied from.
        filled: Numbers of the changed bands, from 1.
    """
    kept = {
        band: {key: text for key, text in source.tags(band).items() if key.startswith(_STATISTICS)}
        for band in source.indexes
        if band not in filled
    }
    if any(key.startswith(_STATISTICS) for band in filled for key in source.tags(band)):
        target.clear_stats()  # of all bands: there is no other way to remove a tag
        for band, tags in kept.items():
            target.update_tags(band, **tags)


def _lost_domains(source: Any, copy: Any, band: int) -> dict[str, dict[str, str]]:
    """Tags by domain that a copy lacks; band 0 is the raster itself."""
    lost = {}
    for domain in source.tag_namespaces(band):
        if domain not in _NOT_COPIED and not domain.startswith(_NOT_TEXT):
            tags = source.tags(band, ns=domain)
            if copy.tags(band, ns=domain) != tags:
                lost[domain] = tags
    return lost


def _described(dataset: Any) -> dict[str, Any]:
    from rasterio.enums import ColorInterp

    points, points_crs = dataset.gcps
    tables = {
        band: dataset.colormap(band)
        for band in dataset.indexes
        if dataset.colorinterp[band - 1] == ColorInterp.palette
    }
    return {
        "size": dataset.shape,
        "number of bands": dataset.count,
        "types of bands": dataset.dtypes,
        "CRS": dataset.crs,
        "transform": dataset.transform,
        "ground control points": ([(p.row, p.col, p.x, p.y, p.z, p.id, p.info) for p in points], points_crs)
        if points
        else None,
        "rational polynomial coefficients": dataset.rpcs and dataset.rpcs.to_gdal(),
        "no-data values": [repr(value) for value in dataset.nodatavals],  # NaN is not equal to itself
        "scales": dataset.scales,
        "offsets": dataset.offsets,
        "units": [unit or "" for unit in dataset.units],
        "descriptions": [text or "" for text in dataset.descriptions],
        # GeoTIFF says grey of a first band of no colour, where other formats say nothing.
        "colour interpretation": [
            ColorInterp.gray if colour == ColorInterp.undefined else colour for colour in dataset.colorinterp
        ],
        "colour tables": tables,
        "colour profile": dataset.tags(ns="COLOR_PROFILE").get("SOURCE_ICC_PROFILE"),
    }
