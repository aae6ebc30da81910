# syntax=docker/dockerfile:1
# GGUF files on any CPU from 2013 on (AVX2); built without what only this machine's CPU has.
#   docker run -p 8080:80 -v ./models:/models tgi-core:llamacpp --model-id /models/model.gguf
FROM python:3.11-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends build-essential cmake \
  && rm -rf /var/lib/apt/lists/* && python -m venv /opt/tgi
ENV PATH=/opt/tgi/bin:$PATH CMAKE_ARGS=-DGGML_NATIVE=OFF
RUN --mount=type=bind,source=dist,target=/dist \
  pip install --no-cache-dir --find-links /dist "tgi-core[llamacpp,dialects,otlp,watermark]"

FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/tgi /opt/tgi
ENV PATH=/opt/tgi/bin:$PATH
COPY --chmod=755 docker/entrypoint.sh /usr/local/bin/tgi-entrypoint
RUN useradd --uid 10000 --home-dir /data --no-create-home tgi && install -d -m 1777 /data
USER 10000
ENV PORT=80 HOME=/data HF_HOME=/data HUGGINGFACE_HUB_CACHE=/data DOCKER_LABEL=llamacpp
VOLUME /data
EXPOSE 80
HEALTHCHECK --start-period=30m --interval=10s --timeout=5s \
  CMD ["python3", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health', timeout=4)"]
ENTRYPOINT ["tgi-entrypoint"]
CMD ["--json-output"]
