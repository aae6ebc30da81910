# syntax=docker/dockerfile:1
# TPUs. Without one XLA compiles for the CPU.
#   docker run --privileged --net host --shm-size 16g \
#     -p 8080:80 -v tgi:/data tgi-core:xla --model-id org/name
FROM python:3.11-slim-bookworm
RUN --mount=type=bind,source=dist,target=/dist \
  pip install --no-cache-dir --find-links /dist \
  --extra-index-url https://download.pytorch.org/whl/cpu "tgi-core[xla,dialects,otlp,watermark]"
COPY --chmod=755 docker/entrypoint.sh /usr/local/bin/tgi-entrypoint
RUN useradd --uid 10000 --home-dir /data --no-create-home tgi && install -d -m 1777 /data
USER 10000
ENV PORT=80 HOME=/data HF_HOME=/data HUGGINGFACE_HUB_CACHE=/data DOCKER_LABEL=xla
VOLUME /data
EXPOSE 80
HEALTHCHECK --start-period=30m --interval=10s --timeout=5s \
  CMD ["python3", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health', timeout=4)"]
ENTRYPOINT ["tgi-entrypoint"]
CMD ["--json-output"]
