"""Notebooks to pages: parameters, papermill, HTML, figures."""
