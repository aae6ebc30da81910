"""The watermark of Kirchenbauer et al. (https://arxiv.org/abs/2301.10226) for tgi-core."""
