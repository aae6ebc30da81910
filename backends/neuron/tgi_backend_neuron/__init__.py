"""Compiled models on AWS Inferentia2 and Trainium, as a backend for tgi-core."""
