"""What both sides share; imports neither side."""

from privet.common import quiet as quiet  # before flwr, grpc and transformers are imported by anyone
