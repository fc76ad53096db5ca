"""What Google's metadata server says of this machine: whether it is about to be taken away.

A preempted machine has about 30 s left. The server is asked with a long poll that it answers when the answer changes;
only the literal TRUE of a server that calls itself Google's counts. Whatever else is heard, from nobody or from
somebody in between, counts as nothing: a visit is never given up for a misunderstanding.
https://cloud.google.com/compute/docs/instances/create-use-spot#detect-preemption
https://cloud.google.com/compute/docs/metadata/querying-metadata
"""

import asyncio
import http.client
import os
from typing import NamedTuple
from urllib.parse import quote

HOST = "metadata.google.internal"
PATH = "/computeMetadata/v1/instance/preempted"
FLAVOR = ("Metadata-Flavor", "Google")

# The server answers then although nothing has changed. A thread waits for it, and who ends this process waits for that.
POLL_S = 10
# It lies in the machine itself: an answer that takes this much longer is none.
ANSWER_S = 5.0
# Between two questions, so that a server which answers everything at once is not asked all the time. Of the 30 s.
PAUSE_S = 1.0
# Where there is no such server there is none later either, and looking its name up costs something.
RETRY_S = 10.0
# What no answer has: the server knows it as "answer at once".
NO_ETAG = "0"
# TRUE and FALSE are shorter; a page of a captive portal is not read to its end.
WORD_BYTES = 16


class Answer(NamedTuple):
    is_preempted: bool
    etag: str


async def until_preempted() -> None:
    """Returns when this machine is about to be taken away."""
    etag = NO_ETAG
    while True:
        answer = await asyncio.to_thread(ask, etag)
        if answer is not None and answer.is_preempted:
            return
        etag = answer.etag if answer else NO_ETAG
        await asyncio.sleep(PAUSE_S if answer else RETRY_S)


def ask(last_etag: str) -> Answer | None:
    """The server's word, when it is another than that of `last_etag` or POLL_S have passed. None: it said nothing.

    Blocking. Goes straight there: `http.client` knows no proxies and follows no redirects.
    """
    query = f"wait_for_change=true&last_etag={quote(last_etag, safe='')}&timeout_sec={POLL_S}"
    try:
        # Google's own libraries look for the server there
        address = os.environ.get("GCE_METADATA_HOST", HOST)
        connection = http.client.HTTPConnection(address, timeout=POLL_S + ANSWER_S)
        try:
            connection.request("GET", f"{PATH}?{query}", headers=dict([FLAVOR]))
            return _read(connection.getresponse())
        finally:
            connection.close()
    except (OSError, ValueError, http.client.HTTPException):
        return None


def _read(response: http.client.HTTPResponse) -> Answer | None:
    name, flavor = FLAVOR
    word = response.read(WORD_BYTES)
    # what is left of the length that was promised never came: it was another word
    if response.status != http.client.OK or response.getheader(name) != flavor or response.length:
        return None
    return Answer(word == b"TRUE", response.getheader("ETag", NO_ETAG))
