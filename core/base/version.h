// The program's version: what `buildq --version`, build.json and the nodes table say.
#ifndef BQ_BASE_VERSION_H
#define BQ_BASE_VERSION_H

#define BQ_VERSION "0.1.0"

#endif
