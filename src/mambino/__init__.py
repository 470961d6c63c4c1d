"""Mamba U-Nets that segment medical images on any machine."""
