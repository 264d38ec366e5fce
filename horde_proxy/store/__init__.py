"""What clients may fetch later: today the pictures that answers link to."""

from horde_proxy.store.pictures import PictureStore

__all__ = ["PictureStore"]
