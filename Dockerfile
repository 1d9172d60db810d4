# The studio on one port, with the embedded model inside. With a GPU: --build-arg PIP_EXTRA_INDEX_URL="" and run --gpus all.
FROM python:3.11-slim
ARG PIP_EXTRA_INDEX_URL="https://download.pytorch.org/whl/cpu"
WORKDIR /app
COPY requirements.txt requirements.lock ./
RUN pip install --no-cache-dir -r requirements.txt -c requirements.lock
COPY . .
RUN useradd --create-home studio && mkdir /data && chown studio /data
USER studio
ENV STUDIO_HOME=/data STUDIO_HOST=0.0.0.0
VOLUME /data
EXPOSE 8501
# Beyond this computer the studio asks for a password, and refuses to start without one: pass -e STUDIO_PASSWORD=...
CMD ["python", "-m", "studio.ui.start", "--server.headless", "true"]
