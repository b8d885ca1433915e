FROM python:3.13-slim
COPY . /src
RUN pip install --no-cache-dir /src && rm -rf /src \
 && useradd --system --groups dialout kamstrup
USER kamstrup
WORKDIR /config
ENTRYPOINT ["kamstrup-mqtt"]
CMD ["run", "-c", "/config/config.yaml"]
