"""One adapter a network, behind the small interfaces of `interfaces.py`."""
