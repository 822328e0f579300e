# docker build --tag shapo --build-arg PIP_EXTRA_INDEX_URL=... .     (README: PyTorch for the CPU)
# docker run --rm --volume "$PWD/runs:/shapo/runs" shapo             as ./run_all.sh; what follows `shapo` goes to it
# docker run --rm --network host shapo lab                           JupyterLab, on this machine's loopback alone
FROM python:3.12-slim-bookworm
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git libegl1 libosmesa6 \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /shapo
COPY . .
ARG PIP_EXTRA_INDEX_URL
RUN ./run_all.sh setup
ENTRYPOINT ["./run_all.sh"]
