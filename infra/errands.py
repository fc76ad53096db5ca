"""Small programs for the Python of a host, run as `python -c`: what the agent has no verb for.

Constants, and they take their data as arguments. Python 3.8 and its standard library are enough for them. Whoever runs
one keeps out what lies in the home it starts in: by -I, and by -P for an interpreter whose packages are asked for.
"""

# What must be equal on all machines of a Ray cluster: [Python's minor version, Ray's or ""].
VERSIONS = """
import importlib.metadata, json, sys
try:
    ray = importlib.metadata.version("ray")
except importlib.metadata.PackageNotFoundError:
    ray = ""
print(json.dumps(["%d.%d" % sys.version_info[:2], ray]))
"""

# HOST PORT: can it be reached from there? A machine of the same network answers within milliseconds.
REACH = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 10).close()"

# PATH: a directory that only we may enter, also where others could have made it before us.
ROOM = """
import os, stat, sys
try:
    os.mkdir(sys.argv[1], 0o700)
except FileExistsError:
    pass
found = os.lstat(sys.argv[1])
if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
    sys.exit("%s belongs to others, or lets them in: remove it" % sys.argv[1])
"""
