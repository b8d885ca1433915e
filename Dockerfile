FROM python:3.13-slim
COPY . /src
RUN pip install --no-cache-dir /src && rm -rf /src \
 && useradd --system --groups dialout kamstrup \
 && install -d -o kamstrup /data
USER kamstrup
ENV KAMSTRUP_HISTORY__PATH=/data/history.db
VOLUME /data
WORKDIR /config
HEALTHCHECK --interval=1m --start-period=1m CMD ["kamstrup-mqtt", "health", "-c", "/config/config.yaml"]
ENTRYPOINT ["kamstrup-mqtt"]
CMD ["run", "-c", "/config/config.yaml"]
