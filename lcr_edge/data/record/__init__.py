"""Record labelled clips from a camera or a video file, in the layout that ``--data DIR`` reads. Torch-free."""
