"""Where the objects and their parts are, found once by a pretrained model: no label and no annotation is used.

In: the images that runs are fit on. Out: object maps and part maps as arrays with a checksum, and the evidence that a batch is
mixed by.
"""
