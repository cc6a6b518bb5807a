*** Settings ***
Documentation       An operator deploys this release.
...                 Another engine: --variable ENGINE:postgresql-18
...                 Another server: --variable DATABASE_URL:postgresql://me@host/postgres
...                 (new databases are made beside the one that is named)

Resource            resources/database.resource

Suite Setup         Choose An Engine
Test Teardown       Drop Database


*** Test Cases ***
Empty Database Reaches The Newest Schema
    Start With An Empty Database
    Upgrade To    head
    Database Should Be At    ${NEWEST}
    Schema Should Match The Models

Deployed Plans Are Migrated
    Start With The Deployed Database
    Upgrade To    head
    Every Plan Should Name Its Root
    Every Plan Should Be Readable
    No Plan Should Have A Snapshot
    Only Should Have Changed    v3_plans    alembic_version

A Second Run Finds Nothing To Do
    Start With A New Database
    Store Plans    profile=cautious
    Remember
    Upgrade To    head
    Messages Should Contain    already at ${NEWEST}, nothing to do
    Nothing Should Have Changed

Pods That Start Together Migrate Once
    Start With The Deployed Database
    Run Together    alembic upgrade head    ${URL}    processes=3
    Command Should Succeed
    Messages Should Contain    ${FORMER} -> ${NEWEST}    times=1
    Messages Should Contain    already at ${NEWEST}, nothing to do    times=2
    Every Plan Should Name Its Root

An Installed Package Needs No Checkout
    Start With The Deployed Database
    Run Elsewhere    cleveragents-plans upgrade --url ${URL}
    Command Should Succeed
    Messages Should Contain    : ${FORMER} -> ${NEWEST}
    Every Plan Should Name Its Root

Cycle Of Plans Stops The Upgrade
    Start With The Deployed Database
    Store A Cycle Of Plans
    Remember
    Run Command    alembic upgrade head    ${URL}
    Command Should Be Refused
    ...    are their own ancestors and have no root    nothing was changed
    Nothing Should Have Changed
