"""The backbone and our linear head: built by timm, given pretrained weights, frozen in part, put on a device.

In: the section ``model``. Out: a model whose weight · features is an exact class map.
"""
