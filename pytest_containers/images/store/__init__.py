"""The store of images: names, documents, layers, and who uses them."""
