# syntax=docker/dockerfile:1
# Intel GPUs. Who may open /dev/dri is the host's group `render`, by number.
#   docker run --device=/dev/dri --group-add video \
#     --group-add "$(getent group render | cut -d: -f3)" --ipc=host --shm-size 8g \
#     -p 8080:80 -v tgi:/data tgi-core:xpu --model-id org/name
FROM intel/oneapi-basekit:2025.1.3-0-devel-ubuntu22.04
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev python3-dev python3-venv \
  && rm -rf /var/lib/apt/lists/* && python3 -m venv /opt/tgi
ENV PATH=/opt/tgi/bin:$PATH
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/xpu torch
RUN --mount=type=bind,source=dist,target=/dist \
  pip install --no-cache-dir --find-links /dist "tgi-core[xpu,dialects,otlp,watermark]"
COPY --chmod=755 docker/entrypoint.sh /usr/local/bin/tgi-entrypoint
RUN useradd --uid 10000 --home-dir /data --no-create-home tgi && install -d -m 1777 /data
USER 10000
ENV PORT=80 HOME=/data HF_HOME=/data HUGGINGFACE_HUB_CACHE=/data DOCKER_LABEL=xpu
VOLUME /data
EXPOSE 80
HEALTHCHECK --start-period=30m --interval=10s --timeout=5s \
  CMD ["python3", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health', timeout=4)"]
ENTRYPOINT ["tgi-entrypoint"]
CMD ["--json-output"]
