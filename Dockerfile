# genac on a CUDA machine. NOT TRIED: no GPU was at hand, and the image was never built.
#
#   docker build -t genac .
#   docker run --gpus all --ipc=host -v "$PWD/runs:/home/genac/runs" genac doctor
#   docker run --gpus all --ipc=host -v "$PWD/runs:/home/genac/runs" genac train qwen3-1.7b-gsm8k-1gpu
FROM python:3.11-slim

# The compiler serves the CPU engine and Triton.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ git \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/genac
COPY . .
# On Linux torch's wheel of the package index brings the CUDA libraries.
RUN pip install --no-cache-dir -c constraints.txt '.[data,lora,math,ui]'

RUN useradd --create-home genac && mkdir /home/genac/runs && chown genac /home/genac/runs
USER genac
WORKDIR /home/genac
ENTRYPOINT ["genac"]
CMD ["--help"]
