# The studio on one port, with the embedded model inside. With a GPU: --build-arg PIP_EXTRA_INDEX_URL="" and run --gpus all.
FROM python:3.11-slim
ARG PIP_EXTRA_INDEX_URL="https://download.pytorch.org/whl/cpu"
# What else is installed: ray[serve] for a cluster.
ARG EXTRA=""
WORKDIR /app
COPY requirements.txt requirements.lock ./
RUN pip install --no-cache-dir -r requirements.txt ${EXTRA} -c requirements.lock
COPY . .
RUN useradd --create-home --uid 1000 studio && mkdir /data && chown studio /data
USER 1000
# Models from the Hub are gigabytes: on the volume, they survive the container.
ENV STUDIO_HOME=/data HF_HOME=/data/hub STUDIO_HOST=0.0.0.0 STUDIO_PORT=8501
VOLUME /data
EXPOSE 8501
# Answered without the password. Python, because the image has no curl.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["python", "-c", \
    "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['STUDIO_PORT'] + '/_stcore/health', timeout=4)"]
# Beyond this computer the studio asks for a password, and refuses to start without one: pass -e STUDIO_PASSWORD=...
CMD ["python", "-m", "studio.interfaces.web.start", "--server.headless", "true"]
