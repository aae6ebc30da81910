# syntax=docker/dockerfile:1
# NVIDIA GPUs. torch brings CUDA's libraries, the base names the driver they need, Triton wants gcc.
#   docker run --gpus all --shm-size 1g -p 8080:80 -v tgi:/data tgi-core:cuda --model-id org/name
FROM nvidia/cuda:12.4.0-base-ubuntu22.04
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev python3-dev python3-venv \
  && rm -rf /var/lib/apt/lists/* && python3 -m venv /opt/tgi
ENV PATH=/opt/tgi/bin:$PATH
RUN --mount=type=bind,source=dist,target=/dist \
  pip install --no-cache-dir --find-links /dist "tgi-core[cuda,dialects,otlp,watermark]"
COPY --chmod=755 docker/entrypoint.sh /usr/local/bin/tgi-entrypoint
RUN useradd --uid 10000 --home-dir /data --no-create-home tgi && install -d -m 1777 /data
USER 10000
ENV PORT=80 HOME=/data HF_HOME=/data HUGGINGFACE_HUB_CACHE=/data DOCKER_LABEL=cuda
VOLUME /data
EXPOSE 80
HEALTHCHECK --start-period=30m --interval=10s --timeout=5s \
  CMD ["python3", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health', timeout=4)"]
ENTRYPOINT ["tgi-entrypoint"]
CMD ["--json-output"]
