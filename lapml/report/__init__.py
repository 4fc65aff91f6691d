"""From run folders to tables, figures and one self-contained page."""
