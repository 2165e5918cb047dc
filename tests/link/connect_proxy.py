"""An HTTP proxy that knows CONNECT and nothing else, as a process: python connect_proxy.py ALLOWED [USER:PASSWORD]

Prints its port, then a line for each request: "granted" or "refused", the method and the target. ALLOWED is the only
`host:port` that it connects to. With USER:PASSWORD it asks for basic authentication (RFC 7617).
"""

import base64
import select
import socket
import sys
import threading


def serve(one: socket.socket, allowed: str, password: str | None) -> None:
    with one:
        head = b""
        while b"\r\n\r\n" not in head:
            data = one.recv(4096)
            if not data:
                return
            head += data
        lines = head.split(b"\r\n\r\n")[0].decode().split("\r\n")
        method, target, _ = lines[0].split(" ")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        expected = None if password is None else "Basic " + base64.b64encode(password.encode()).decode()
        if expected is not None and fields.get("proxy-authorization") != expected:
            answer = "407 Proxy Authentication Required"
        elif method != "CONNECT" or target != allowed:
            answer = "403 Forbidden"
        else:
            answer = "200 Connection established"
        print("granted" if answer.startswith("200") else "refused", method, target, flush=True)
        one.sendall(f"HTTP/1.1 {answer}\r\n\r\n".encode())
        if not answer.startswith("200"):
            return
        host, _, port = target.rpartition(":")
        with socket.create_connection((host, int(port))) as far:
            while True:
                for ready in select.select([one, far], [], [])[0]:
                    data = ready.recv(1 << 16)
                    if not data:
                        return
                    (far if ready is one else one).sendall(data)


def main() -> None:
    allowed, password = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(listening.getsockname()[1], flush=True)
        while True:
            one = listening.accept()[0]
            threading.Thread(target=serve, args=(one, allowed, password), daemon=True).start()


if __name__ == "__main__":
    main()
