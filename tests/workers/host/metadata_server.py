"""A metadata server on this machine, which says what it is told to."""

import socket
import threading


def reply(word: str, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(word) if length is None else length}", *headers, "", word]
    return "\r\n".join(lines).encode()


GOOGLE = "Metadata-Flavor: Google"
TRUE = reply("TRUE", GOOGLE, "ETag: e2")
FALSE = reply("FALSE", GOOGLE, "ETag: e1")


class Server:
    """Answers the n-th request with the n-th of `answers`, and every further one with the last."""

    def __init__(self, *answers: bytes) -> None:
        """`address`: what GCE_METADATA_HOST is to be."""
        self.answers = list(answers)
        self.requests: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection:
                request = b""
                while b"\r\n\r\n" not in request:
                    if not (more := connection.recv(4096)):
                        return  # who knocks without a word is `close`
                    request += more
                self.requests.append(request.decode())
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                connection.sendall(answer)

    def close(self) -> None:
        with socket.create_connection(self._socket.getsockname()):
            pass
        self._thread.join()
        self._socket.close()
