# syntax=docker/dockerfile:1
# AWS Inferentia2 and Trainium. The kernel module is the host's.
#   docker run --device=/dev/neuron0 -p 8080:80 -v tgi:/data tgi-core:neuron --model-id /data/compiled
FROM ubuntu:22.04
ADD --chmod=644 https://apt.repos.neuron.amazonaws.com/GPG-PUB-KEY-AMAZON-AWS-NEURON.PUB /etc/apt/keyrings/neuron.asc
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates g++ python3-dev python3-venv \
  && echo "deb [signed-by=/etc/apt/keyrings/neuron.asc] https://apt.repos.neuron.amazonaws.com jammy main" \
    > /etc/apt/sources.list.d/neuron.list \
  && apt-get update && apt-get install -y --no-install-recommends \
    aws-neuronx-collectives aws-neuronx-runtime-lib aws-neuronx-tools \
  && rm -rf /var/lib/apt/lists/* && python3 -m venv /opt/tgi
ENV PATH=/opt/tgi/bin:/opt/aws/neuron/bin:$PATH
RUN --mount=type=bind,source=dist,target=/dist \
  pip install --no-cache-dir --find-links /dist \
  --extra-index-url https://pip.repos.neuron.amazonaws.com \
  --extra-index-url https://download.pytorch.org/whl/cpu \
  "tgi-core[neuron,dialects,otlp,watermark]" "optimum-neuron[neuronx]>=0.4.5,<0.5"
COPY --chmod=755 docker/entrypoint.sh /usr/local/bin/tgi-entrypoint
RUN useradd --uid 10000 --home-dir /data --no-create-home tgi && install -d -m 1777 /data
USER 10000
ENV PORT=80 HOME=/data HF_HOME=/data HUGGINGFACE_HUB_CACHE=/data DOCKER_LABEL=neuron
VOLUME /data
EXPOSE 80
HEALTHCHECK --start-period=30m --interval=10s --timeout=5s \
  CMD ["python3", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health', timeout=4)"]
ENTRYPOINT ["tgi-entrypoint"]
CMD ["--json-output"]
