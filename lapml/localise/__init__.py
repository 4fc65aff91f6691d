"""Where the objects and their parts are, found once by a pretrained model: no label and no annotation is used."""
