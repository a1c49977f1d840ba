"""The costly stages, one a file, in the order a clip passes them: probe shots frames quality faces caption ground …"""
