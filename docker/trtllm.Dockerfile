# syntax=docker/dockerfile:1
# NVIDIA GPUs with TensorRT-LLM, which is in NVIDIA's image and keeps its own torch and numpy.
#   docker run --gpus all --ipc=host --ulimit memlock=-1 --ulimit stack=67108864 \
#     -p 8080:80 -v tgi:/data tgi-core:trtllm --model-id org/name
FROM nvcr.io/nvidia/tensorrt-llm/release:1.2.1
ENV PIP_BREAK_SYSTEM_PACKAGES=1
RUN --mount=type=bind,source=dist,target=/dist \
  pip install --no-cache-dir --find-links /dist "tgi-core[trtllm,dialects,otlp,watermark]"
COPY --chmod=755 docker/entrypoint.sh /usr/local/bin/tgi-entrypoint
RUN useradd --uid 10000 --home-dir /data --no-create-home tgi && install -d -m 1777 /data
USER 10000
ENV PORT=80 HOME=/data HF_HOME=/data HUGGINGFACE_HUB_CACHE=/data DOCKER_LABEL=trtllm
VOLUME /data
EXPOSE 80
HEALTHCHECK --start-period=30m --interval=10s --timeout=5s \
  CMD ["python3", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health', timeout=4)"]
ENTRYPOINT ["tgi-entrypoint"]
CMD ["--json-output"]
