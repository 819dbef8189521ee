"""When does somebody speak? Streams a WAV file to a server, 32 ms at a time, and prints what it hears.

The model remembers what it has heard so far, and the server keeps that for it: a stream is a sequence, from its first
request to its end. So this program sends sound and nothing else, and a thousand of them may do so at once: the server
puts the frames of all streams into one batch.
"""

import argparse
import sys
import time
import wave
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penstock_client import Client, InferenceError, StreamAnswer, StreamRequest

RATE = 16_000
FRAME = 512
CONTEXT = 64
"""Samples of the frame before, which the model wants to see again."""

Sound = NDArray[np.float32]

HELP = """\
The server needs the model `listener`, which comes with Penstock:

    python -m penstock_server.examples models
    penstock serve models

and then, in another shell:

    python listen.py                         a recording that comes with Penstock
    python listen.py my.wav                  one of yours: 16 kHz, 16 bit, mono
    python listen.py my.wav --real-time      as fast as a microphone would bring it
    python listen.py my.wav --spans          only from when to when somebody speaks

Other recordings are converted first, with sox for example:

    sox other.mp3 -r 16000 -b 16 -c 1 my.wav
"""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        sound = read_wav(options.wav or sample())
        with Client(options.url) as client:
            spans = listen(client, options.model, sound, options)
    except (InferenceError, OSError, ValueError) as error:
        print(f"listen.py: {error}", file=sys.stderr)
        return 1
    print("speech at", ", ".join(f"{begin:.2f}-{end:.2f} s" for begin, end in spans) or "no time at all")
    return 0


def listen(client: Client, model: str, sound: Sound, options: argparse.Namespace) -> list[tuple[float, float]]:
    """Stream the sound, print the probability of speech in each frame, and return when there was some, in seconds."""
    requests: Iterator[StreamRequest] = (StreamRequest(model, {"input": window}) for window in windows(sound))
    if options.real_time:
        requests = paced(requests, FRAME / RATE)
    spans: list[tuple[float, float]] = []
    for number, probability in enumerate(probabilities(client.stream(requests))):
        begin, end = number * FRAME / RATE, (number + 1) * FRAME / RATE
        if not options.spans:
            print(f"{begin:7.3f} s  {probability:.3f}  {'#' * round(40 * probability)}", flush=True)
        if probability > options.threshold:
            if spans and spans[-1][1] == begin:
                spans[-1] = (spans[-1][0], end)
            else:
                spans.append((begin, end))
    return spans


def windows(sound: Sound) -> Iterator[Sound]:
    """The frames, [1, 576] each: the end of the one before, and 512 new samples. The last one is filled up."""
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), sound, np.zeros(-len(sound) % FRAME, np.float32)])
    for start in range(0, len(padded) - CONTEXT, FRAME):
        yield padded[np.newaxis, start : start + CONTEXT + FRAME]


def probabilities(answers: Iterable[StreamAnswer]) -> Iterator[float]:
    """One for each frame, in their order. Raises the first failure: what came after it would be heard wrongly."""
    for answer in answers:
        yield float(answer.result()["output"][0, 0])


def paced(requests: Iterable[StreamRequest], seconds: float) -> Iterator[StreamRequest]:
    """The same requests, each when its sound would have been recorded."""
    began = time.monotonic()
    for number, request in enumerate(requests, 1):
        time.sleep(max(0.0, began + number * seconds - time.monotonic()))
        yield request


def read_wav(path: Path) -> Sound:
    """Samples from -1 to 1. ValueError if the model could not make sense of them."""
    try:
        with wave.open(str(path)) as file:
            rate, bits, channels = file.getframerate(), 8 * file.getsampwidth(), file.getnchannels()
            data = file.readframes(file.getnframes())
    except (EOFError, wave.Error) as error:
        raise ValueError(f"{path} is not a WAV file that Python can read: {error or 'it ends too early'}") from None
    if (rate, bits, channels) != (RATE, 16, 1):
        raise ValueError(f"{path} has {rate} Hz, {bits} bit, {channels} channels: convert it, --help shows how")
    return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)


def sample() -> Path:
    """The recording that comes with the server."""
    try:
        from penstock_server.examples import speech_example
    except ImportError:
        raise ValueError("there is no recording here: name a WAV file") from None
    return speech_example().recording


def _parser() -> argparse.ArgumentParser:
    first, rest = (__doc__ or "").split("\n\n", 1)
    parser = argparse.ArgumentParser(
        prog="listen.py",
        description=f"{first}\n\n{rest}",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("wav", type=Path, nargs="?", help="the recording; without it, one that comes with Penstock")
    parser.add_argument("--url", default="127.0.0.1:8001", help="the server (%(default)s)")
    parser.add_argument("--model", default="listener", help="its name there (%(default)s)")
    parser.add_argument("--threshold", type=float, default=0.5, help="what counts as speech (%(default)s)")
    parser.add_argument("--real-time", action="store_true", help="send each frame when a microphone would have it")
    parser.add_argument("--spans", action="store_true", help="do not print each frame")
    return parser


if __name__ == "__main__":
    sys.exit(main())
