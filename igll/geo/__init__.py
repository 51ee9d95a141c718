"""Georeferenced rasters of any size and number of bands: reading, what is missing, tiling, writing.

Needs rasterio (extra ``geo``), which is imported only where a raster is opened.
"""
