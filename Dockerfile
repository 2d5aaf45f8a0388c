# One image for every worker; docker-compose.yml picks one by its console script.
FROM python:3.12-slim-bookworm

COPY . /src
RUN pip install --no-cache-dir /src \
 && rm -rf /src \
 && useradd --create-home --uid 1000 jobmill \
 && install -d -o jobmill -g jobmill /var/spool/jobmill /etc/jobmill

USER jobmill
WORKDIR /var/spool/jobmill
CMD ["jobmill", "--help"]
