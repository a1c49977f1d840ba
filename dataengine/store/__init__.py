"""Where files are: local disks and object stores, behind one interface."""

from dataengine.store.errors import StoreError
from dataengine.store.filesystems import REMOTE, filesystem_of
from dataengine.store.folder import Store, open_source

__all__ = ["REMOTE", "Store", "StoreError", "filesystem_of", "open_source"]
