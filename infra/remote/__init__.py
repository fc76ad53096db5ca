"""What runs on a host while somebody talks to it: `infra.agent` sends these modules to the host's own python3.

They import the standard library and each other, keep to what Python 3.8 knows, and leave nothing of their own on the
host: only what they are asked to put, and what they are asked to start.
"""
