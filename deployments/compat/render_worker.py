"""A process that turns a conversation into tokens, for prompts too big for a gateway's event loop.

Run as a file: it needs nothing but Harmony, so it is ready in a second. Each request on standard
input is four bytes of length and a conversation as JSON, each answer on standard output four bytes
of length, one byte (0: well, 1: failed) and the token ids as 32-bit integers. It ends with its
input.
"""

import struct
import sys
from array import array
from typing import BinaryIO

LENGTH = struct.Struct("<I")
WELL, FAILED = b"\0", b"\1"


def main(asked: BinaryIO, told: BinaryIO) -> None:
    from openai_harmony import HarmonyEncodingName, load_harmony_encoding

    encoding = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)
    while head := asked.read(LENGTH.size):
        conversation = asked.read(LENGTH.unpack(head)[0]).decode()
        try:
            # The call under vLLM's `render_for_completion`, with the JSON that it would have got.
            tokens = encoding._inner.render_conversation_for_completion(
                conversation_json=conversation,
                next_turn_role="assistant",
                config={"auto_drop_analysis": False},
            )
            answer = WELL + array("I", tokens).tobytes()
        except BaseException as error:  # a Rust panic is no Exception
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            answer = FAILED
        told.write(LENGTH.pack(len(answer)) + answer)
        told.flush()


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
