#!/usr/bin/env python3
"""Whether the server of FEDERATION.toml serves: gRPC's health check on its public port, TLS verified; exit 0 or 1.

python health.py FEDERATION.toml [HOST]     HOST: where to call, 127.0.0.1 unless told; the certificate's name counts
"""

import sys
import tomllib
from pathlib import Path

import grpc
from cryptography import x509
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

SECONDS = 8.0


def main(file: Path, host: str = "127.0.0.1") -> int:
    server = tomllib.loads(file.read_text(encoding="utf-8")).get("server", {})
    port = server.get("address", "0.0.0.0:9092").rpartition(":")[2]
    authority = (file.parent / server.get("ca", "keys/ca.crt")).read_bytes()
    certificate = x509.load_pem_x509_certificate(
        (file.parent / server.get("certificate", "keys/server.crt")).read_bytes()
    )
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    name = str(next(iter(names)).value)
    options = [("grpc.ssl_target_name_override", name), ("grpc.enable_http_proxy", 0)]
    with grpc.secure_channel(f"{host}:{port}", grpc.ssl_channel_credentials(authority), options=options) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=HealthCheckRequest.SerializeToString,
            response_deserializer=HealthCheckResponse.FromString,
        )
        try:
            answer = check(HealthCheckRequest(), timeout=SECONDS, wait_for_ready=False)
        except grpc.RpcError as error:
            print(f"no answer: {error.code().name}", file=sys.stderr)
            return 1
    serving = answer.status == HealthCheckResponse.SERVING
    print("serving" if serving else "not serving", file=sys.stderr)
    return 0 if serving else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:3]))
